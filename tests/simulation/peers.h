// Clients and nodes of a simulation: each sends a stream that says of every byte what it must be, reads the other's, and behaves
// or misbehaves as its plan says, until it is told to be calm: then it sends what is left, ends, reads to the end and goes.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/simulation/simulated_sockets.h"

namespace hud::simulation {

// `head`, and behind it bytes that follow from the key and their offset: a byte that is lost, doubled or moved shows.
class Content {
 public:
  Content(std::vector<uint8_t> head, uint64_t key) : head_(std::move(head)), key_(key) {}
  std::vector<uint8_t> At(uint64_t offset, size_t size) const;
  bool IsAt(uint64_t offset, Bytes bytes) const;
  size_t head_size() const { return head_.size(); }

 private:
  const std::vector<uint8_t> head_;
  const uint64_t key_;
};

enum class Ending : uint8_t {
  kEndsWhenSent,    // FIN, then reads to the end
  kEndsAfterOther,  // FIN when the other's has come
  kClosesWhenSent,  // with whatever has come unread
  kCloses,          // at some moment
  kResets,          // at some moment
  kVanishes,        // at some moment
  kIsCutOff,        // at some moment, as the proxy's kernel is told by an error
  kStays,           // neither sends an end nor waits for one
};

struct Plan {
  uint64_t to_send = 0;
  Ending ending = Ending::kEndsWhenSent;
  uint64_t moment = 0;          // of kCloses and the like: when so much has been sent or received
  bool reads = true;            // before it is calm
  double read_chance = 0.7, send_chance = 0.7;
  size_t most_at_once = 65536;  // bytes
  Duration pace{};              // between two acts, at most
  double stall_chance = 0;
};
Plan RandomPlan(Random& random, uint64_t most_bytes, double impolite);

class Peer {
 public:
  enum class End : uint8_t { kNone, kFin, kReset };

  Peer(World& world, std::string name, std::shared_ptr<Endpoint> endpoint, Content content, const Plan& plan);
  virtual ~Peer() = default;

  void Start();
  void BeCalm();
  bool done() const { return gone_; }
  // It never reset, closed early or vanished: what the other sent and how it ended is owed to it.
  bool patient() const { return patient_; }
  End end() const { return end_; }
  uint64_t received() const { return read_ - not_of_the_stream_; }  // of the other's stream
  const Content& content() const { return content_; }
  const std::string& name() const { return name_; }
  const Endpoint& endpoint() const { return *endpoint_; }
  const Endpoint& proxys_end() const { return *proxys_end_; }
  std::string Describe() const;

 protected:
  virtual void OnBytes(Bytes bytes) = 0;
  World& world_;
  uint64_t received_ = 0;           // of the other's stream, as far as it is known whose it is
  uint64_t not_of_the_stream_ = 0;  // a PROXY header

 private:
  void ActLater(Duration delay);
  void OnWake();
  void Act();
  void SendSome();
  void ReadSome();
  void EndIfDue();
  bool ItsMoment() const { return endpoint_->sent + read_ >= plan_.moment; }
  void BeCutOff();
  void Go();

  const std::string name_;
  const std::shared_ptr<Endpoint> endpoint_, proxys_end_;
  const Content content_;
  Plan plan_;
  Duration pause_{};  // longer each time that an act could do nothing
  Instant stalled_until_{};
  bool calm_ = false;
  bool patient_ = true;
  bool send_failed_ = false;
  bool ended_ = false;  // its own stream
  bool gone_ = false;
  End end_ = End::kNone;
  uint64_t read_ = 0;
  uint64_t acts_ = 0;  // the next one's number: a change of mind leaves older ones behind
};

}  // namespace hud::simulation
