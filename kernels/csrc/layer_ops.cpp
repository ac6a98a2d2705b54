// A decoder layer's native CPU ops, but for matrices and attention, behind torch's dispatcher; contracts:
// cold_kernels/ops.py.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>

#include "layer.h"
#include "tensors.h"

namespace cold {
namespace {

constexpr int64_t kGrain = 1 << 15;  // multiplications that are worth a thread

Tensor add_rms_norm(Tensor hidden, const std::optional<Tensor>& delta, const Tensor& weight, double epsilon) {
  const int64_t rows = hidden.size(0), n = hidden.size(1);
  check_shape(weight, hidden.scalar_type(), {n}, "weight");
  if (delta) check_shape(*delta, hidden.scalar_type(), hidden.sizes(), "delta");
  TORCH_CHECK(hidden.is_contiguous() && (!delta || delta->is_contiguous()),
              "hidden and delta must be contiguous");
  Tensor out = at::empty(hidden.sizes(), hidden.options());
  dispatch(hidden, [&](auto element) {
    using T = decltype(element);
    T* to = static_cast<T*>(out.data_ptr());
    T* x = static_cast<T*>(hidden.data_ptr());
    const T* d = delta ? static_cast<const T*>(delta->const_data_ptr()) : nullptr;
    const T* w = static_cast<const T*>(weight.const_data_ptr());
    at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        add_and_norm(to + r * n, x + r * n, d ? d + r * n : nullptr, w, n, epsilon);
    });
  });
  return out;
}

Tensor silu_multiply(const Tensor& gate_up) {
  TORCH_CHECK(gate_up.is_contiguous(), "gate_up must be contiguous");
  const int64_t rows = gate_up.size(0), n = gate_up.size(1) / 2;
  Tensor out = at::empty({rows, n}, gate_up.options());
  dispatch(gate_up, [&](auto element) {
    using T = decltype(element);
    T* to = static_cast<T*>(out.data_ptr());
    const T* x = static_cast<const T*>(gate_up.const_data_ptr());
    at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        silu_and_multiply(to + r * n, x + 2 * r * n, x + (2 * r + 1) * n, n);
    });
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(cold_native, CPU, library) {
  library.impl("add_rms_norm", add_rms_norm);
  library.impl("silu_multiply", silu_multiply);
}

}  // namespace cold
