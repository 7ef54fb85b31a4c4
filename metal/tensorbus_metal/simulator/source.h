/* MSL as C++: the signatures of its kernels, and an entry for each that the executor calls. */
#ifndef TENSORBUS_METAL_SOURCE_H
#define TENSORBUS_METAL_SOURCE_H

#include <map>
#include <string>
#include <vector>

namespace sim {

struct Translation {
    std::string text;           /* line k is line k of the source */
    std::string errors;         /* as the compiler's log; empty if there are none */
    /* The buffer indices of each kernel, in the order in which its entry takes their addresses. */
    std::map<std::string, std::vector<int>> kernels;
};

Translation translate(const std::string &source);

}  // namespace sim
#endif
