/* The part of MetalPerformanceShaders that multiplies matrices. */
#include "metal.h"

#include <math.h>
#include <string.h>

#include <cfenv>

namespace sim {

namespace {

enum : uint32_t { FLOAT32 = 0x10000000 | 32, FLOAT16 = 0x10000000 | 16 };

Class *descriptor_class, *matrix_class, *product_class;

struct Descriptor : Object {
    NSUInteger rows, columns, row_bytes;
    uint32_t type;
    Descriptor(NSUInteger rows, NSUInteger columns, NSUInteger row_bytes, uint32_t type)
        : Object(descriptor_class), rows(rows), columns(columns), row_bytes(row_bytes), type(type) {
    }
    size_t element() const { return (type & 0xff) / 8; }
};

struct Matrix : Object {
    Ref<Buffer> buffer;
    NSUInteger offset = 0;
    Ref<Descriptor> as;
    Matrix() : Object(matrix_class) {}
    const char *at(NSUInteger i, NSUInteger j) const {
        return (const char *)buffer->address + offset + i * as->row_bytes + j * as->element();
    }
};

struct Product : Object {
    Ref<Device> device;
    bool transpose_left = false, transpose_right = false;
    NSUInteger rows = 0, columns = 0, inner = 0;
    double alpha = 0, beta = 0;
    Product() : Object(product_class) {}
};

Object *describe(Class *, SEL, NSUInteger rows, NSUInteger columns, NSUInteger row_bytes,
                 uint32_t type) {
    Descriptor *made = new Descriptor(rows, columns, row_bytes, type);
    if ((type != FLOAT32 && type != FLOAT16) || row_bytes % made->element()
        || columns * made->element() > row_bytes || rows == 0 || columns == 0)
        assertion("a matrix of %lu by %lu elements of type %#x in rows of %lu bytes", rows, columns,
                  type, row_bytes);
    return autorelease(made);
}

Object *new_matrix(Class *, SEL) { return new Matrix; }

Object *init_matrix(Matrix *self, SEL, Buffer *buffer, NSUInteger offset, Descriptor *as) {
    size_t end = offset + (as->rows - 1) * as->row_bytes + as->columns * as->element();
    if (offset % as->element() || end > buffer->length)
        assertion("a matrix of %zu bytes at offset %lu leaves its buffer of %zu bytes",
                  end - offset, offset, buffer->length);
    self->buffer = buffer;
    self->offset = offset;
    self->as = as;
    return self;
}

Object *new_product(Class *, SEL) { return new Product; }

Object *init_product(Product *self, SEL, Device *device, signed char transpose_left,
                     signed char transpose_right, NSUInteger rows, NSUInteger columns,
                     NSUInteger inner, double alpha, double beta) {
    self->device = device;
    self->transpose_left = transpose_left;
    self->transpose_right = transpose_right;
    self->rows = rows;
    self->columns = columns;
    self->inner = inner;
    self->alpha = alpha;
    self->beta = beta;
    return self;
}

float half_to_float(uint16_t h) {
    int exponent = (h >> 10) & 31, mantissa = h & 1023;
    float value = exponent == 31 ? (mantissa ? NAN : INFINITY)
        : exponent ? ldexpf(float(mantissa + 1024), exponent - 25) : ldexpf(float(mantissa), -24);
    return h & 0x8000 ? -value : value;
}

uint16_t float_to_half(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint16_t sign = uint16_t((bits >> 16) & 0x8000);
    float size = fabsf(x);
    if (isnan(x)) return 0x7e00;
    if (size == 0) return sign;
    if (size >= 65520.0f) return uint16_t(sign | 0x7c00);
    int exponent;
    frexpf(size, &exponent);
    if (exponent < -13) exponent = -13;
    /* In units of the last place, to nearest even; a carry moves into the exponent by itself. */
    long units = lrintf(ldexpf(size, 11 - exponent));
    return uint16_t(sign | (units + (long(exponent + 13) << 10)));
}

float get(const char *at, uint32_t type) {
    if (type == FLOAT16) {
        uint16_t half;
        memcpy(&half, at, 2);
        return half_to_float(half);
    }
    float value;
    memcpy(&value, at, 4);
    return value;
}

void put(char *at, uint32_t type, float value) {
    if (type == FLOAT16) {
        uint16_t half = float_to_half(value);
        memcpy(at, &half, 2);
    } else {
        memcpy(at, &value, 4);
    }
}

tbs_status multiply(const Product &p, const Matrix &a, const Matrix &b, const Matrix &c) {
    std::vector<float> sums(p.columns);
    for (NSUInteger i = 0; i < p.rows; ++i) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (NSUInteger k = 0; k < p.inner; ++k) {
            float left = get(p.transpose_left ? a.at(k, i) : a.at(i, k), a.as->type);
            for (NSUInteger j = 0; j < p.columns; ++j)
                sums[j] = fmaf(left, get(p.transpose_right ? b.at(j, k) : b.at(k, j), b.as->type),
                               sums[j]);
        }
        for (NSUInteger j = 0; j < p.columns; ++j) {
            char *at = const_cast<char *>(c.at(i, j));
            float before = p.beta == 0 ? 0.0f : float(p.beta) * get(at, c.as->type);
            put(at, c.as->type, float(p.alpha) * sums[j] + before);
        }
    }
    return TBS_OK;
}

void encode(Product *self, SEL, CommandBuffer *commands, Matrix *a, Matrix *b, Matrix *c) {
    NSUInteger left = self->transpose_left ? a->as->columns : a->as->rows;
    NSUInteger right = self->transpose_right ? b->as->rows : b->as->columns;
    if (left < self->rows || right < self->columns || c->as->rows < self->rows
        || c->as->columns < self->columns)
        assertion("matrices are smaller than the product of %lu by %lu", self->rows, self->columns);
    commands->begin("a matrix product");
    commands->encoding = false;
    if (!commands->submit("launch")) return;
    Ref<Product> product(self);
    Ref<Matrix> x(a), y(b), z(c);
    commands->commands.push_back([product, x, y, z] {
        /* A device computes as it does, whatever the host's thread is set to. */
        std::fenv_t mode;
        std::fegetenv(&mode);
        std::fesetenv(FE_DFL_ENV);
        auto done = multiply(*product.get(), *x.get(), *y.get(), *z.get());
        std::fesetenv(&mode);
        return done;
    });
}

}  // namespace

void setup_mps() {
    if (!tbs_option_int("METAL", "mps", 0, 1)) return;
    descriptor_class = new Class("MPSMatrixDescriptor");
    descriptor_class->class_method("matrixDescriptorWithRows:columns:rowBytes:dataType:",
                                   imp(describe));
    matrix_class = new Class("MPSMatrix");
    matrix_class->class_method("alloc", imp(new_matrix))
        .method("initWithBuffer:offset:descriptor:", imp(init_matrix));
    product_class = new Class("MPSMatrixMultiplication");
    product_class->class_method("alloc", imp(new_product))
        .method("initWithDevice:transposeLeft:transposeRight:resultRows:resultColumns:"
                "interiorColumns:alpha:beta:", imp(init_product))
        .method("encodeToCommandBuffer:leftMatrix:rightMatrix:resultMatrix:", imp(encode));
}

}  // namespace sim
