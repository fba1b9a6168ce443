// The ring of a simulated kernel: ring/io/ring.h with the habits of io_uring on Linux 6.18 that the worker must live with. Time
// passes in Wait() only, but for little: it goes on to the next event, or to its deadline.
#pragma once

#include <deque>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "ring/io/ring.h"
#include "tests/simulation/simulated_kernel.h"

namespace hud::simulation {

// The rungs of kernels that are served.
struct RingFeatures {
  bool bounded_multishot_recv = true;  // 6.17
  bool silent_sends = true;            // 6.1
  bool minimum_wait = true;            // 6.12
  size_t buffers = 256;
  size_t buffer_bytes = 16384;
  size_t submission_entries = 256;
  size_t completion_entries = 4096;
};

class SimulatedRing final : public Ring {
 public:
  SimulatedRing(SimulatedKernel& kernel, const RingFeatures& features);
  ~SimulatedRing() override;

  void AcceptMultishot(int fd, uint64_t user_data) override;
  void AcceptOne(int fd, uint64_t user_data) override;
  void Recv(int fd, Expected expected, uint64_t user_data) override;
  void RecvMultishot(int fd, Expected expected, uint32_t limit, uint64_t user_data) override;
  void Send(int fd, Bytes data, uint64_t user_data) override;
  void SendZeroCopy(int fd, Bytes data, uint64_t user_data) override;
  void ConnectAndSend(int fd, const sockaddr* address, socklen_t size, uint64_t connect_tag, Bytes data, uint64_t send_tag) override;
  void Poll(int fd, uint32_t events, uint64_t user_data) override;
  void PollChanges(int fd, uint32_t events, uint64_t user_data) override;
  void Cancel(uint64_t target_user_data) override;
  void Close(Fd fd) override;
  void Submit() override;
  size_t Wait(std::span<Completion> completions, Duration timeout, Batch batch = {}) override;
  Bytes BufferBytes(uint16_t buffer) const override;
  void ReturnBuffer(uint16_t buffer) override;
  size_t buffer_size() const override { return features_.buffer_bytes; }
  size_t buffers_free() const override { return features_.buffers - with_caller_; }
  uint64_t overflows() const override { return overflows_; }
  uint64_t losses() const override { return losses_; }

  // What still waits, in words; not what waits for an event counter, and nothing after a loss.
  std::vector<std::string> RequestsLeft() const;

 private:
  enum class Kind : uint8_t { kAccept, kRecv, kSend, kZeroCopy, kConnect, kPoll, kPollChanges, kCancel, kClose };

  struct Request {
    Kind kind;
    int fd = -1;
    uint64_t user_data = 0;
    uint64_t send_tag = 0;
    bool multishot = false;
    Expected expected = Expected::kNow;
    uint32_t limit = 0;   // of a multishot receive: bytes that may still come
    uint32_t events = 0;  // of a poll
    Bytes data;           // of a send
    uint64_t hash = 0;    // of that, when it was asked for
    const sockaddr* address = nullptr;
    socklen_t address_size = 0;
    std::shared_ptr<File> file;  // from its submission on
    bool runnable = false;       // woken
    bool ended = false;
    Endpoint& endpoint() const { return static_cast<Endpoint&>(*file); }
  };
  using RequestPtr = std::shared_ptr<Request>;

  struct Posted {
    Completion completion;
    Bytes data;  // to be unchanged still when it is handed out
    uint64_t hash = 0;
  };

  void Queue(Request request);
  void SubmitQueue();
  void Start(const RequestPtr& r);
  void StartCancel(uint64_t target);
  void StartSend(const RequestPtr& r);
  void StartZeroCopy(const RequestPtr& r);
  void StartConnect(const RequestPtr& r);
  void CannotBegin(const RequestPtr& r);
  void NoteSentHello(const Request& r, ssize_t result);
  void WaitFor(const RequestPtr& r);
  void Woken(File* file, short key);
  void MakeRunnable(const RequestPtr& r);
  bool IsReady(const Request& r) const;
  void Run(const RequestPtr& r);
  void RunAccept(const RequestPtr& r);
  void RunRecv(const RequestPtr& r);
  void RunConnect(const RequestPtr& r);
  void RunPoll(const RequestPtr& r);
  void RunRunnable(bool all);
  void Sleep(Duration timeout, Batch batch);
  void BeStopped(Instant due);
  void End(const RequestPtr& r);
  bool Post(const RequestPtr& r, Completion completion);
  void PostAndEnd(const RequestPtr& r, Completion completion);
  void Notify(const RequestPtr& r);
  size_t Harvest(std::span<Completion> completions);
  void CheckMemory(const Posted& posted);
  static uint64_t HashOf(Bytes data);

  SimulatedKernel& kernel_;
  World& world_;
  const RingFeatures features_;
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // for events that may come after
  std::vector<uint8_t> memory_;
  std::vector<uint16_t> free_;
  std::vector<bool> is_with_caller_;
  size_t with_caller_ = 0;
  std::deque<RequestPtr> queue_;  // not submitted
  std::unordered_map<File*, std::vector<RequestPtr>> waiting_;
  std::unordered_map<uint64_t, RequestPtr> pending_;  // by user_data
  std::deque<RequestPtr> runnable_, deferred_;
  std::deque<Posted> silent_, completions_;
  size_t notifications_owed_ = 0;
  bool left_over_ = false, overflowed_ = false;
  bool cancels_ = false;  // in this turn
  uint64_t overflows_ = 0, losses_ = 0;
  std::unordered_set<uint64_t> sent_hello_;  // connections whose hello a connected socket was given
  uint64_t losses_told_ = 0;  // by -EBADR, with which a wait ends at once
};

}  // namespace hud::simulation
