#include "tests/simulation/scarce_memory.h"

#include <cstdlib>
#include <new>

namespace hud::simulation {
namespace {

thread_local Faults* scarce = nullptr;
thread_local int enough = 0;

void* Allocate(std::size_t bytes, std::size_t alignment) {
  if (scarce != nullptr && enough == 0 && scarce->Happens(Fault::kNoMemory)) return nullptr;
  if (alignment <= alignof(std::max_align_t)) return std::malloc(bytes > 0 ? bytes : 1);
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

void* AllocateOrThrow(std::size_t bytes, std::size_t alignment) {
  void* memory = Allocate(bytes, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

// Not in line: the compiler would take it for a mismatch.
[[gnu::noinline]] void Free(void* p) { std::free(p); }

}  // namespace

ScarceMemory::ScarceMemory(Faults& faults) { scarce = &faults; }
ScarceMemory::~ScarceMemory() { scarce = nullptr; }
EnoughMemory::EnoughMemory() { ++enough; }
EnoughMemory::~EnoughMemory() { --enough; }

}  // namespace hud::simulation

// In place of the library's, for this whole program.
using hud::simulation::Allocate;
using hud::simulation::AllocateOrThrow;
using hud::simulation::Free;

void* operator new(std::size_t n) { return AllocateOrThrow(n, 1); }
void* operator new[](std::size_t n) { return AllocateOrThrow(n, 1); }
void* operator new(std::size_t n, std::align_val_t a) { return AllocateOrThrow(n, static_cast<std::size_t>(a)); }
void* operator new[](std::size_t n, std::align_val_t a) { return AllocateOrThrow(n, static_cast<std::size_t>(a)); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept { return Allocate(n, 1); }
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept { return Allocate(n, 1); }
void operator delete(void* p) noexcept { Free(p); }
void operator delete[](void* p) noexcept { Free(p); }
void operator delete(void* p, std::size_t) noexcept { Free(p); }
void operator delete[](void* p, std::size_t) noexcept { Free(p); }
void operator delete(void* p, std::align_val_t) noexcept { Free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { Free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { Free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { Free(p); }
