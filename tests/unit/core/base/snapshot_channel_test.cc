#include "core/base/snapshot_channel.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace hud {
namespace {

// Says when it dies, and is visibly dead afterwards.
struct Snapshot {
  Snapshot(int n, std::atomic<int>* count) : first(n), second(~n), alive(count) { ++*alive; }
  ~Snapshot() { first = second = 0, --*alive; }
  bool IsWhole() const { return first == ~second; }
  int first, second;
  std::atomic<int>* alive;
};

TEST(SnapshotChannel, AReaderSeesTheNewest) {
  std::atomic<int> alive{0};
  SnapshotChannel<Snapshot> channel(2, std::make_unique<Snapshot>(1, &alive));
  EXPECT_EQ(channel.Current(0).first, 1);
  channel.Publish(std::make_unique<Snapshot>(2, &alive));
  EXPECT_EQ(channel.Current(0).first, 2);
  EXPECT_EQ(channel.latest().first, 2);
}

TEST(SnapshotChannel, ASleepingReaderKeepsItsOwnSnapshotAndNoOther) {
  std::atomic<int> alive{0};
  SnapshotChannel<Snapshot> channel(3, std::make_unique<Snapshot>(1, &alive));
  const Snapshot& held = channel.Current(0);
  for (int n = 2; n < 100; ++n) channel.Publish(std::make_unique<Snapshot>(n, &alive));
  EXPECT_TRUE(held.IsWhole());
  EXPECT_EQ(held.first, 1);
  EXPECT_EQ(channel.kept(), 2U);
  EXPECT_EQ(alive, 2);
  channel.Current(0);
  channel.Publish(std::make_unique<Snapshot>(100, &alive));
  EXPECT_EQ(alive, 2) << "99, which the reader now holds, and 100";
}

TEST(SnapshotChannel, NothingIsFreedUnderAReader) {
  constexpr int kReaders = 3;
  std::atomic<int> alive{0};
  std::atomic<bool> done{false};
  std::atomic<int> broken{0}, backwards{0};
  {
    SnapshotChannel<Snapshot> channel(kReaders, std::make_unique<Snapshot>(1, &alive));
    std::vector<std::thread> readers;
    for (int i = 0; i < kReaders; ++i) {
      readers.emplace_back([&, i] {
        int last = 0;
        while (!done.load(std::memory_order_relaxed)) {
          const Snapshot& snapshot = channel.Current(i);
          broken += !snapshot.IsWhole();
          backwards += snapshot.first < last;
          last = snapshot.first;
        }
      });
    }
    size_t most = 0;
    for (int n = 2; n < 20'000; ++n) {
      channel.Publish(std::make_unique<Snapshot>(n, &alive));
      most = std::max(most, channel.kept());
    }
    done = true;
    for (std::thread& reader : readers) reader.join();
    EXPECT_LE(most, kReaders + 1U);
  }
  EXPECT_EQ(broken, 0);
  EXPECT_EQ(backwards, 0);
  EXPECT_EQ(alive, 0);
}

}  // namespace
}  // namespace hud
