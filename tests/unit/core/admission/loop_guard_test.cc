#include "core/admission/loop_guard.h"

#include <gtest/gtest.h>

#include "tests/unit/core/tls/hello_builder.h"

namespace hud {
namespace {

using test::Buffer;

Buffer HelloWith(uint8_t seed) { return test::Hello({.random = test::Counting(32, seed)}, test::ServerName("a.example")); }

TEST(LoopGuard, TellsHellosApartByTheirRandomAndInNothingElse) {
  const LoopGuard guard(1000, {1, 2});
  const auto cell = [&](const Buffer& hello) { return guard.CellOf(hello); };
  EXPECT_EQ(cell(test::Record(HelloWith(1))), cell(test::Record(HelloWith(1))));
  EXPECT_NE(cell(test::Record(HelloWith(1))), cell(test::Record(HelloWith(2))));
  EXPECT_NE(cell(test::Record(HelloWith(1))), LoopGuard::kNone);
  // Cut into records in the middle of it: as it came, so it comes round.
  EXPECT_EQ(cell(test::Records(HelloWith(1), 10)), cell(test::Records(HelloWith(1), 10)));
  EXPECT_NE(cell(test::Records(HelloWith(1), 10)), cell(test::Records(HelloWith(2), 10)));
}

TEST(LoopGuard, TakesAHelloOfAnyLength) {
  const LoopGuard guard(1000, {1, 2});
  for (size_t size : {0, 5, 11, 12, 42, 43}) EXPECT_NE(guard.CellOf(Buffer(size)), LoopGuard::kNone) << size;
}

TEST(LoopGuard, CountsThoseThatAreThere) {
  LoopGuard guard(1000, {1, 2});
  const uint32_t cell = guard.CellOf(test::Record(HelloWith(1)));
  EXPECT_EQ(guard.Enter(cell), 1u);
  EXPECT_EQ(guard.Enter(cell), 2u);
  guard.Leave(cell);
  EXPECT_EQ(guard.Enter(cell), 2u);
}

}  // namespace
}  // namespace hud
