// The exact feeds of a node: session ids that its server logs (syslog) and that its applications announce (tokens).
// Both write into the node's TokenJournal. Nothing a feed says can do more than that, and what it says is counted.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "agentd/datagram_socket.h"
#include "agentd/feed_line.h"
#include "core/beacon/beacon_sender.h"

namespace hud {

class Feed {
 public:
  enum class Kind : uint8_t { kSyslog, kTokens };
  struct Stats {
    uint64_t datagrams = 0, lines = 0, added = 0, removed = 0, without_session = 0, rejected = 0, several_fields = 0;
  };

  // `group`: may write to it, too; empty: the agent's own. `ttl`: of tokens that do not say their own.
  // The journal must outlive the feed.
  static absl::StatusOr<Feed> Open(Kind kind, const std::string& path, const std::string& group, Duration ttl,
                                   TokenJournal* journal);

  int fd() const { return socket_.fd(); }
  const DatagramSocket& socket() const { return socket_; }
  // Makes the socket anew where another process removed or replaced it; what was written meanwhile is lost.
  absl::Status OpenAgain();
  // "1000 lines: 990 ids, 0 taken back, 9 without a session, 1 not in the format".
  std::string Summary() const;
  // Reads a bounded number of datagrams. True if there may be more.
  bool Read(Instant now);
  Kind kind() const { return kind_; }
  const std::string& path() const { return path_; }
  const Stats& stats() const { return stats_; }
  // How many ids have come, when that is news: the first one, and then once an hour; empty: it is not.
  std::string TakeCount(Instant now);
  // A sentence on lines that were rejected, or that name two sessions, at most once a minute; empty: nothing to say.
  std::string TakeComplaint(Instant now);

 private:
  Feed(Kind kind, std::string path, std::string group, Duration ttl, TokenJournal* journal, DatagramSocket socket)
      : kind_(kind), path_(std::move(path)), group_(std::move(group)), ttl_(ttl), journal_(journal), socket_(std::move(socket)) {}
  void TakeDatagram(std::string_view datagram, bool truncated, Instant now);
  void TakeLine(std::string_view line, Instant now);
  void Reject(std::string_view line);

  Kind kind_;
  std::string path_;
  std::string group_;
  Duration ttl_;
  TokenJournal* journal_;
  DatagramSocket socket_;
  Stats stats_;
  std::string rejected_sample_;  // the first part of the first line since the last complaint, printable
  Instant next_complaint_{};
  uint64_t several_told_ = 0;
  uint64_t added_told_ = 0;
  Instant next_count_{};
};

}  // namespace hud
