// A broken invariant is a bug: say where, and end the process before it corrupts a stream.
#pragma once

#include <cstdio>
#include <cstdlib>

#define HUD_CHECK(condition)                                                                   \
  do {                                                                                         \
    if (!(condition)) [[unlikely]] {                                                           \
      std::fprintf(stderr, "%s:%d: broken invariant: %s\n", __FILE__, __LINE__, #condition);   \
      std::abort();                                                                            \
    }                                                                                          \
  } while (false)
