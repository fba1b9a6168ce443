// A unix datagram socket that programs on this machine write to: mode 0660, bound in place of a stale one.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/os/fd.h"

namespace hud {

class DatagramSocket {
 public:
  // An existing path is replaced only if it is a socket that nobody listens on any more.
  // `group`: its members may write, too; empty: the process's own group.
  static absl::StatusOr<DatagramSocket> Bind(const std::string& path, const std::string& group);
  // What Bind() would complain of, found out without making anything; whether somebody listens there already is not asked.
  // NotFoundError: its folder is missing, which a service manager may make.
  static absl::Status Check(const std::string& path, const std::string& group);
  DatagramSocket(DatagramSocket&& other) noexcept = default;
  DatagramSocket& operator=(DatagramSocket&& other) noexcept = default;  // leaves the path of the one before to who has it now
  ~DatagramSocket();  // unlinks the path, unless another process has put its own there since

  int fd() const { return fd_.get(); }
  // Is the path still this socket? Who writes to another one is not heard.
  bool IsInPlace() const;
  // Who may write besides root, as its owner and group are now: "user hudsucker, group www-data".
  std::string Writers() const;
  // The folder above it that its group cannot pass, and so the members cannot reach the socket; empty if there is none.
  std::string FolderThatBars() const;

  // Hands over up to `limit` waiting datagrams. One that is longer than the buffer comes with `truncated` set.
  // Returns how many there were.
  size_t Receive(size_t limit, const std::function<void(std::string_view datagram, bool truncated)>& take);

 private:
  DatagramSocket(Fd fd, std::string path, uint64_t device, uint64_t inode)
      : fd_(std::move(fd)), path_(std::move(path)), device_(device), inode_(inode) {}
  Fd fd_;
  std::string path_;
  uint64_t device_ = 0;
  uint64_t inode_ = 0;
};

}  // namespace hud
