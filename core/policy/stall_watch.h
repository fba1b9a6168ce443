// Whether workers turn: whoever is woken and has not turned for a while hangs. Judged by how often each has turned, so it costs
// a worker nothing, and one that rightly sleeps is never suspected: it is woken, and turns.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/types.h"

namespace hud {

class StallWatch {
 public:
  // Between two looks at most so much counts. The judge looks more often than that; a longer time is one in which it did not run
  // either, because the process was stopped or the machine slept, and then nobody hangs.
  static constexpr Duration kMostBetweenLooks = std::chrono::seconds(1);
  static constexpr int kWakesPerPatience = 4;

  struct News {
    size_t worker;
    Duration stood;  // since it was woken in vain
    bool back;       // it turns again; otherwise it has just been found to hang
  };

  StallWatch(size_t workers, Instant now) : workers_(workers), last_look_(now), last_wake_(now) {}

  // `turns`: of each worker, how often it has turned since it began. What has changed.
  std::vector<News> Look(Instant now, std::span<const int64_t> turns, Duration patience) {
    const Duration step = std::min(Duration(now - last_look_), kMostBetweenLooks);
    last_look_ = now;
    std::vector<News> news;
    for (size_t i = 0; i < workers_.size(); ++i) {
      Watched& w = workers_[i];
      if (turns[i] != w.turns) {
        if (w.hangs) news.push_back({i, w.stood, true});
        w = {.turns = turns[i], .stalls = w.stalls};
      } else if (w.woken) {
        w.stood += step;
        if (w.hangs || w.stood < patience) continue;
        w.hangs = true;
        ++w.stalls;
        news.push_back({i, w.stood, false});
      }
    }
    return news;
  }

  // Are all to be woken now? Then whoever asks does so.
  bool TakeWake(Instant now, Duration patience) {
    if (now - last_wake_ < patience / kWakesPerPatience) return false;
    last_wake_ = now;
    for (Watched& w : workers_) w.woken = true;
    return true;
  }

  bool AnyHangs() const {
    return std::any_of(workers_.begin(), workers_.end(), [](const Watched& w) { return w.hangs; });
  }
  bool Hangs(size_t worker) const { return workers_[worker].hangs; }
  uint64_t stalls(size_t worker) const { return workers_[worker].stalls; }  // times that it was found to hang

 private:
  struct Watched {
    int64_t turns = -1;  // when it was looked at last
    Duration stood{0};
    uint64_t stalls = 0;
    bool woken = false;  // since it turned last
    bool hangs = false;
  };
  std::vector<Watched> workers_;
  Instant last_look_;
  Instant last_wake_;
};

}  // namespace hud
