/* Reads the heads of kernels; the bodies go to the compiler as they are. */
#include "source.h"

#include <ctype.h>
#include <stdlib.h>

#include <algorithm>
#include <set>

namespace {

const int LARGEST_BUFFER = 30;

struct Attribute {
    const char *name, *value;
};

/* What a thread may ask about itself, one-dimensional, and how the executor's ids answer. */
const Attribute ATTRIBUTES[] = {
    {"thread_position_in_grid", "tbs_thread_position()"},
    {"thread_position_in_threadgroup", "tbs_thread()"},
    {"thread_index_in_threadgroup", "tbs_thread()"},
    {"threadgroup_position_in_grid", "tbs_group()"},
    {"threads_per_threadgroup", "tbs_threads()"},
    {"threadgroups_per_grid", "tbs_groups()"},
};

std::string trimmed(const std::string &text) {
    size_t from = text.find_first_not_of(" \t\n"), to = text.find_last_not_of(" \t\n");
    return from == std::string::npos ? "" : text.substr(from, to - from + 1);
}

bool word_at(const std::string &text, size_t at, const std::string &word) {
    auto inside = [&](size_t k) { return isalnum((unsigned char)text[k]) || text[k] == '_'; };
    return text.compare(at, word.size(), word) == 0 && (at == 0 || !inside(at - 1))
        && (at + word.size() >= text.size() || !inside(at + word.size()));
}

void blank(std::string *text, size_t from, size_t to) {
    for (size_t k = from; k < to; ++k)
        if ((*text)[k] != '\n') (*text)[k] = ' ';
}

class Translator {
public:
    explicit Translator(const std::string &source) { out.text = source; }

    sim::Translation run() {
        for (size_t at = 0; (at = out.text.find("#include <metal_stdlib>", at)) != std::string::npos;)
            blank(&out.text, at, at + 23);
        size_t end = out.text.size();
        for (size_t at = 0; at < end; ++at)
            if (word_at(out.text, at, "kernel")) at = head(at + 6);
        out.text += entries;
        return out;
    }

private:
    sim::Translation out;
    std::string entries;

    void error(size_t at, const std::string &words) {
        long line = 1 + std::count(out.text.begin(), out.text.begin() + long(at), '\n');
        out.errors += "program_source:" + std::to_string(line) + ":1: error: " + words + "\n";
    }

    /* From behind "kernel": the return type, a name, the parameters; returns where it stopped. */
    size_t head(size_t at) {
        size_t open = out.text.find('(', at);
        if (open == std::string::npos) return at;
        std::string before = trimmed(out.text.substr(at, open - at));
        size_t space = before.find_last_of(" \t\n");
        if (space == std::string::npos || trimmed(before.substr(0, space)) != "void") {
            error(at, "a kernel returns void");
            return at;
        }
        std::string name = before.substr(space + 1), call;
        std::vector<int> buffers;
        std::set<int> taken;
        size_t from = open + 1, close = open;
        int depth = 0;
        for (size_t k = open; k < out.text.size(); ++k) {
            char c = out.text[k];
            if (c == '(' || c == '[') ++depth;
            if (c == ')' || c == ']') --depth;
            if ((c == ',' && depth == 1) || depth == 0) {
                if (!call.empty()) call += ", ";
                call += parameter(from, k, &buffers, &taken);
                from = k + 1;
            }
            if (depth == 0) {
                close = k;
                break;
            }
        }
        out.kernels[name] = buffers;
        entries += "\nextern \"C\" void tbs_entry_" + name
            + "(void *arguments) { void **p = (void **)arguments; (void)p; " + name + "(" + call
            + "); }";
        return close;
    }

    std::string parameter(size_t from, size_t to, std::vector<int> *buffers, std::set<int> *taken) {
        size_t start = out.text.find("[[", from), stop = out.text.find("]]", from);
        if (start == std::string::npos || stop == std::string::npos || stop > to) {
            error(from, "a kernel's parameter has no attribute");
            return "0";
        }
        std::string attribute = trimmed(out.text.substr(start + 2, stop - start - 2));
        blank(&out.text, start, stop + 2);
        if (attribute.compare(0, 7, "buffer(") == 0) {
            int index = atoi(attribute.c_str() + 7);
            if (index < 0 || index > LARGEST_BUFFER)
                error(from, "'buffer' attribute parameter is out of bounds: must be between 0 and "
                            "30");
            if (!taken->insert(index).second)
                error(from, "two parameters have the index " + std::to_string(index));
            buffers->push_back(index);
            return "tbs_any{p[" + std::to_string(buffers->size() - 1) + "]}";
        }
        for (const Attribute &known : ATTRIBUTES)
            if (attribute == known.name) return known.value;
        error(from, "unknown attribute '" + attribute + "'");
        return "0";
    }
};

}  // namespace

sim::Translation sim::translate(const std::string &source) { return Translator(source).run(); }
