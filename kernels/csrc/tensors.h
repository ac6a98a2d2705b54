// Between torch's tensors and plain pointers.
#pragma once

#include <ATen/core/Tensor.h>

#include "vector.h"

namespace cold {

using at::Tensor;

// Calls f with a value of the C++ type of the tensor's elements.
template <typename F>
void dispatch(const Tensor& like, const F& f) {
  switch (like.scalar_type()) {
    case at::kFloat: return f(float{});
    case at::kBFloat16: return f(BFloat16{});
    case at::kHalf: return f(Float16{});
    default: TORCH_CHECK(false, "dtype must be float32, bfloat16 or float16, got ", like.dtype());
  }
}

inline void check_shape(const Tensor& x, at::ScalarType dtype, at::IntArrayRef sizes, const char* name) {
  TORCH_CHECK(x.scalar_type() == dtype, name, ": dtype must be ", dtype, ", got ", x.dtype());
  TORCH_CHECK(x.sizes() == sizes, name, ": shape must be ", sizes, ", got ", x.sizes());
}

template <typename T>
const T* row_of(const Tensor& x, int64_t row) {
  return static_cast<const T*>(x.const_data_ptr()) + row * x.stride(0);
}

// With the elements of a row one after another.
inline Tensor in_rows(const Tensor& x) { return x.stride(1) == 1 ? x : x.contiguous(); }

}  // namespace cold
