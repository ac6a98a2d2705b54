// Loops over items that threads take from one another as they get to them.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace cold {

// Calls f(item) for all items. A thread takes a few at a time, so that one whose core also serves
// other processes does less, instead of having all others wait for it. `grain` items are worth a
// thread.
template <typename F>
void share(int64_t items, int64_t grain, const F& f) {
  constexpr int64_t kTurns = 8;  // of each thread
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), (items + grain - 1) / grain);
  const int64_t some = std::max<int64_t>(1, items / (std::max<int64_t>(1, threads) * kTurns));
  std::atomic<int64_t> next = 0;
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t first; (first = next.fetch_add(some)) < items;)
      for (int64_t item = first; item < std::min(items, first + some); ++item) f(item);
  });
}

}  // namespace cold
