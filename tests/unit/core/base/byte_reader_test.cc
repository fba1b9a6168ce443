#include <gtest/gtest.h>

#include <vector>

#include "core/base/byte_reader.h"

namespace hud {
namespace {

TEST(ByteReader, ReadsBigEndianNumbersAndVectors) {
  const std::vector<uint8_t> input = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 0xaa, 0, 2, 0xbb, 0xcc, 0xdd};
  ByteReader reader(input);
  uint8_t u8;
  uint16_t u16;
  uint32_t u24, u32;
  Bytes vector8, vector16;
  ASSERT_TRUE(reader.U8(u8) && reader.U16(u16) && reader.U24(u24) && reader.U32(u32));
  EXPECT_EQ(u8, 1);
  EXPECT_EQ(u16, 0x0203);
  EXPECT_EQ(u24, 0x040506u);
  EXPECT_EQ(u32, 0x0708090au);
  ASSERT_TRUE(reader.Vector8(vector8) && reader.Vector16(vector16));
  EXPECT_EQ(std::vector<uint8_t>(vector8.begin(), vector8.end()), std::vector<uint8_t>{0xaa});
  EXPECT_EQ(std::vector<uint8_t>(vector16.begin(), vector16.end()), (std::vector<uint8_t>{0xbb, 0xcc}));
  EXPECT_EQ(reader.remaining(), 1u);
  EXPECT_EQ(reader.rest().front(), 0xdd);

  uint64_t u64;
  ByteReader eight(Bytes(input).first(8));
  ASSERT_TRUE(eight.U64(u64));
  EXPECT_EQ(u64, 0x0102030405060708u);
  EXPECT_TRUE(eight.empty());
}

TEST(ByteReader, TakesNothingWhenItDoesNotFit) {
  const std::vector<uint8_t> input = {0, 9, 1};
  uint8_t u8;
  uint16_t u16;
  uint32_t u32;
  uint64_t u64;
  Bytes bytes;
  ByteReader reader(input);
  EXPECT_FALSE(reader.U32(u32));
  EXPECT_FALSE(reader.U64(u64));
  EXPECT_FALSE(reader.Vector16(bytes));  // says 9, has 1
  EXPECT_FALSE(reader.Take(4, bytes));
  EXPECT_FALSE(reader.Skip(SIZE_MAX));
  EXPECT_EQ(reader.remaining(), 3u);
  ASSERT_TRUE(reader.Skip(2));
  EXPECT_FALSE(reader.U16(u16));
  EXPECT_FALSE(reader.Vector8(bytes));
  EXPECT_FALSE(reader.Vector16(bytes));
  EXPECT_EQ(reader.remaining(), 1u);
  ASSERT_TRUE(reader.U8(u8));
  EXPECT_FALSE(reader.U8(u8));
  EXPECT_TRUE(reader.Skip(0));
  EXPECT_TRUE(reader.empty());
}

TEST(ByteReader, WantsALastVectorToBeTheLast) {
  const std::vector<uint8_t> input = {1, 7, 0, 1, 7, 0};
  Bytes bytes;
  EXPECT_TRUE(ByteReader(Bytes(input).first(2)).LastVector8(bytes));
  EXPECT_FALSE(ByteReader(Bytes(input).first(3)).LastVector8(bytes));
  EXPECT_TRUE(ByteReader(Bytes(input).subspan(2, 3)).LastVector16(bytes));
  EXPECT_FALSE(ByteReader(Bytes(input).subspan(2, 4)).LastVector16(bytes));
}

}  // namespace
}  // namespace hud
