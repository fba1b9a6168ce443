// Which engines a relay may use, by the configuration's relay.mode: one row a mode.
#pragma once

#include "core/policy/relay_policy.h"

namespace hud {

struct EnginePolicy {
  enum class Bulk : uint8_t { kNever, kAfterFullBuffers, kAlways };  // when a direction leaves the small engine

  Bulk bulk = Bulk::kAfterFullBuffers;
  bool zero_copy_only = false;  // bulk is by zero copy, also where the kernel copies after all
  bool may_return = false;      // from bulk, when transfers become small
  bool pipeless_zero_copy = false;  // bulk for which no pipe is left may go by zero copy
};

constexpr EnginePolicy PolicyOf(RelayMode mode) {
  using Bulk = EnginePolicy::Bulk;
  switch (mode) {
    case RelayMode::kAuto: return {.bulk = Bulk::kAfterFullBuffers, .may_return = true, .pipeless_zero_copy = true};
    case RelayMode::kSplice: return {.bulk = Bulk::kAlways};
    case RelayMode::kCopy: return {.bulk = Bulk::kNever};
    case RelayMode::kZeroCopy: return {.bulk = Bulk::kAlways, .zero_copy_only = true};
  }
  return {};
}

}  // namespace hud
