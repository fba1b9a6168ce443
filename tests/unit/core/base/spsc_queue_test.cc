#include "core/base/spsc_queue.h"

#include <thread>

#include "gtest/gtest.h"

namespace hud {
namespace {

TEST(SpscQueue, KeepsTheOrderAndRefusesWhenFull) {
  SpscQueue<int> queue(4);
  int item = -1;
  EXPECT_FALSE(queue.Pop(item));
  for (int round = 0; round < 10; ++round) {  // several times around
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(queue.Push(round * 10 + i));
    EXPECT_FALSE(queue.Push(99));
    for (int i = 0; i < 4; ++i) {
      ASSERT_TRUE(queue.Pop(item));
      EXPECT_EQ(item, round * 10 + i);
    }
    EXPECT_FALSE(queue.Pop(item));
  }
}

TEST(SpscQueue, BetweenTwoThreadsEveryItemArrivesOnceWhole) {
  struct Item {
    int number = 0, complement = 0;
  };
  constexpr int kItems = 200'000;
  SpscQueue<Item> queue(64);
  std::thread producer([&] {
    for (int i = 0; i < kItems;) {
      if (queue.Push({i, ~i})) {
        ++i;
      } else {
        std::this_thread::yield();
      }
    }
  });
  int wrong = 0;
  for (int expected = 0; expected < kItems;) {
    Item item;
    if (!queue.Pop(item)) {
      std::this_thread::yield();
      continue;
    }
    wrong += item.number != expected || item.complement != ~expected;
    ++expected;
  }
  producer.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace hud
