#include "control/nodes/beacon_socket.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace hud {
namespace {

// One byte more than a beacon may have, so that one that is too long is seen to be.
constexpr size_t kSlotBytes = limits::kMaxDatagramBytes + 1;

// The least that a datagram, however short, costs of the receive buffer: its sk_buff and the smallest data block.
constexpr size_t kLeastTrueSize = 512;

struct alignas(cmsghdr) ControlBuffer {
  std::array<char, CMSG_SPACE(sizeof(in6_pktinfo)) + CMSG_SPACE(sizeof(uint32_t)) + 64> bytes;
};

absl::Status Failure(std::string_view what, const SocketAddress& address) {
  return absl::UnavailableError(absl::StrCat("beacons.bind: cannot ", absl::string_view(what.data(), what.size()), " ",
                                             address.ToString(), ": ", std::strerror(errno)));
}

bool SetOption(int fd, int level, int option, int value) {
  return ::setsockopt(fd, level, option, &value, sizeof value) == 0;
}

}  // namespace

struct BeaconSocket::Impl {
  Fd fd;
  SocketAddress address;
  int receive_buffer_bytes = 0;
  uint64_t dropped = 0;
  uint32_t dropped_seen = 0;  // the kernel's count, which wraps
  uint64_t answers_failed = 0;

  struct Slot {
    std::array<uint8_t, kSlotBytes> bytes;
    size_t length = 0;
    sockaddr_storage from{};
    socklen_t from_length = 0;
    // The address that was addressed: what an answer says it comes from. Family AF_UNSPEC if the kernel did not say.
    int local_family = AF_UNSPEC;
    in_pktinfo local4{};
    in6_pktinfo local6{};
  };
  std::array<Slot, kBatch> slots;

  void ReadControl(msghdr& header, Slot& slot);
};

void BeaconSocket::Impl::ReadControl(msghdr& header, Slot& slot) {
  slot.local_family = AF_UNSPEC;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
      std::memcpy(&slot.local4, CMSG_DATA(c), sizeof slot.local4);
      slot.local_family = AF_INET;
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
      std::memcpy(&slot.local6, CMSG_DATA(c), sizeof slot.local6);
      slot.local_family = AF_INET6;
    } else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_RXQ_OVFL) {
      uint32_t count = 0;
      std::memcpy(&count, CMSG_DATA(c), sizeof count);
      dropped += static_cast<uint32_t>(count - dropped_seen);
      dropped_seen = count;
    }
  }
}

absl::StatusOr<std::unique_ptr<BeaconSocket>> BeaconSocket::Bind(const SocketAddress& address) {
  if (address.family() != AF_INET && address.family() != AF_INET6) {
    return absl::InvalidArgumentError(
        absl::StrCat("beacons.bind: ", address.ToString(), " is not an internet address; beacons are UDP, write 0.0.0.0:9999"));
  }
  auto impl = std::make_unique<Impl>();
  impl->fd = Fd(::socket(address.family(), SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int fd = impl->fd.get();
  if (fd < 0) return Failure("make a socket for", address);
  bool ok = SetOption(fd, SOL_SOCKET, SO_RXQ_OVFL, 1);
  if (address.family() == AF_INET) {
    ok = ok && SetOption(fd, IPPROTO_IP, IP_PKTINFO, 1);
  } else {
    // "[::]" also hears IPv4, as the TLS listeners do.
    ok = ok && SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0) && SetOption(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
  }
  if (!ok) return Failure("set the options of the socket for", address);
  if (!SetOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, kReceiveBufferBytes)) {
    SetOption(fd, SOL_SOCKET, SO_RCVBUF, kReceiveBufferBytes);  // up to net.core.rmem_max
  }
  if (::bind(fd, address.data(), address.size()) != 0) return Failure("bind", address);

  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &length) != 0) return Failure("ask the address of", address);
  impl->address = SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&bound), length);
  length = sizeof impl->receive_buffer_bytes;
  ::getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &impl->receive_buffer_bytes, &length);
  return std::unique_ptr<BeaconSocket>(new BeaconSocket(std::move(impl)));
}

BeaconSocket::BeaconSocket(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BeaconSocket::~BeaconSocket() = default;

int BeaconSocket::fd() const { return impl_->fd.get(); }
const SocketAddress& BeaconSocket::address() const { return impl_->address; }
int BeaconSocket::receive_buffer_bytes() const { return impl_->receive_buffer_bytes; }
size_t BeaconSocket::most_queued() const { return static_cast<size_t>(impl_->receive_buffer_bytes) / kLeastTrueSize + 1; }
uint64_t BeaconSocket::dropped() const { return impl_->dropped; }
uint64_t BeaconSocket::answers_failed() const { return impl_->answers_failed; }

size_t BeaconSocket::Fill() {
  std::array<mmsghdr, kBatch> messages{};
  std::array<iovec, kBatch> vectors;
  std::array<ControlBuffer, kBatch> controls;
  for (size_t i = 0; i < kBatch; ++i) {
    Impl::Slot& slot = impl_->slots[i];
    vectors[i] = {slot.bytes.data(), slot.bytes.size()};
    msghdr& header = messages[i].msg_hdr;
    header.msg_name = &slot.from;
    header.msg_namelen = sizeof slot.from;
    header.msg_iov = &vectors[i];
    header.msg_iovlen = 1;
    header.msg_control = controls[i].bytes.data();
    header.msg_controllen = controls[i].bytes.size();
  }
  int n = 0;
  // Errors that a datagram of ours provoked (port unreachable) are reported once each, and end no loop.
  for (int attempt = 0; attempt < 16; ++attempt) {
    n = ::recvmmsg(fd(), messages.data(), kBatch, MSG_DONTWAIT, nullptr);
    if (n >= 0 || errno == EAGAIN) break;
  }
  for (int i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(i);
    Impl::Slot& slot = impl_->slots[at];
    slot.length = messages[at].msg_len;
    slot.from_length = messages[at].msg_hdr.msg_namelen;
    impl_->ReadControl(messages[at].msg_hdr, slot);
  }
  return static_cast<size_t>(std::max(n, 0));
}

BeaconSocket::Datagram BeaconSocket::At(size_t slot) const {
  const Impl::Slot& from = impl_->slots[slot];
  return {Bytes(from.bytes.data(), from.length),
          SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&from.from), from.from_length), slot};
}

void BeaconSocket::Answer(const Datagram& to, Bytes answer) {
  Impl::Slot& slot = impl_->slots[to.slot];
  iovec vector{const_cast<uint8_t*>(answer.data()), answer.size()};
  msghdr header{};
  header.msg_name = &slot.from;
  header.msg_namelen = slot.from_length;
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  ControlBuffer control{};
  if (slot.local_family == AF_INET) {
    // The interface is left to the route: an answer may leave by another one than the question came in by.
    in_pktinfo info{};
    info.ipi_spec_dst = slot.local4.ipi_spec_dst;
    header.msg_control = control.bytes.data();
    header.msg_controllen = CMSG_SPACE(sizeof info);
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = IPPROTO_IP;
    c->cmsg_type = IP_PKTINFO;
    c->cmsg_len = CMSG_LEN(sizeof info);
    std::memcpy(CMSG_DATA(c), &info, sizeof info);
  } else if (slot.local_family == AF_INET6) {
    in6_pktinfo info{};
    info.ipi6_addr = slot.local6.ipi6_addr;
    // A link-local address means nothing without its interface.
    if (IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr)) info.ipi6_ifindex = slot.local6.ipi6_ifindex;
    header.msg_control = control.bytes.data();
    header.msg_controllen = CMSG_SPACE(sizeof info);
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = IPPROTO_IPV6;
    c->cmsg_type = IPV6_PKTINFO;
    c->cmsg_len = CMSG_LEN(sizeof info);
    std::memcpy(CMSG_DATA(c), &info, sizeof info);
  }
  if (::sendmsg(fd(), &header, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) ++impl_->answers_failed;
}

}  // namespace hud
