#include "core/admission/hello_room.h"

#include <algorithm>
#include <queue>
#include <tuple>

namespace hud {
namespace {

// A source's hellos among the sorted ones: [next, end).
struct Holder {
  size_t bytes;
  size_t next;
  size_t end;
};

std::vector<Holder> HoldersOf(const std::vector<HeldHello>& sorted, const HelloNewcomer& newcomer) {
  std::vector<Holder> holders;
  for (size_t begin = 0; begin < sorted.size();) {
    Holder holder{sorted[begin].source == newcomer.source ? newcomer.bytes : 0, begin, begin};
    for (; holder.end < sorted.size() && sorted[holder.end].source == sorted[begin].source; ++holder.end) {
      holder.bytes += sorted[holder.end].bytes;
    }
    begin = holder.end;
    holders.push_back(holder);
  }
  return holders;
}

}  // namespace

std::vector<uint32_t> HellosToEnd(std::vector<HeldHello> held, const HelloNewcomer& newcomer, size_t wanted) {
  std::sort(held.begin(), held.end(), [](const HeldHello& a, const HeldHello& b) {
    return std::tie(a.source, a.since, a.slot) < std::tie(b.source, b.since, b.slot);
  });
  const auto keeps = [&held](const Holder& a, const Holder& b) {
    return a.bytes != b.bytes ? a.bytes < b.bytes : held[a.next].since > held[b.next].since;
  };
  std::priority_queue<Holder, std::vector<Holder>, decltype(keeps)> holders(keeps, HoldersOf(held, newcomer));
  size_t own = newcomer.bytes;
  for (const HeldHello& hello : held) own += hello.source == newcomer.source ? hello.bytes : 0;

  std::vector<uint32_t> to_end;
  for (size_t freed = 0; freed < wanted && !holders.empty();) {
    Holder most = holders.top();
    if (most.bytes < own) break;  // nothing is left of the newcomer's source but itself
    holders.pop();
    const HeldHello& oldest = held[most.next];
    if (oldest.source == newcomer.source) own -= oldest.bytes;
    to_end.push_back(oldest.slot);
    freed += oldest.bytes;
    most.bytes -= oldest.bytes;
    if (++most.next < most.end) holders.push(most);
  }
  return to_end;
}

}  // namespace hud
