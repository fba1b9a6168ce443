#include "agentd/probe_thread.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace hud {
namespace {

using Clock = std::chrono::steady_clock;

// An unknown name asks for a look at the tickets, but a server that shows ever new names is not looked at more often.
constexpr Duration kBetweenLooksAtTickets = std::chrono::seconds(5);

Fd MakeEvent() { return Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

void Signal(const Fd& event) {
  const uint64_t one = 1;
  // Only a counter near its maximum could refuse, and then the event is readable anyway.
  [[maybe_unused]] const ssize_t written = ::write(event.get(), &one, sizeof(one));
}

void Clear(const Fd& event) {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(event.get(), &count, sizeof(count));
}

absl::Status NoEvent() { return absl::ResourceExhaustedError(absl::StrCat("eventfd: ", std::strerror(errno))); }

}  // namespace

absl::StatusOr<std::unique_ptr<ProbeMailbox>> ProbeMailbox::Make() {
  Fd event = MakeEvent();
  if (!event) return NoEvent();
  return std::unique_ptr<ProbeMailbox>(new ProbeMailbox(std::move(event)));
}

void ProbeMailbox::Post(ProbeReport report) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() < kMostWaiting) waiting_.push_back(std::move(report));
  }
  Signal(event_);
}

std::vector<ProbeReport> ProbeMailbox::TakeAll() {
  Clear(event_);
  const std::lock_guard lock(mutex_);
  return std::exchange(waiting_, {});
}

absl::StatusOr<std::unique_ptr<ProbeThread>> ProbeThread::Start(size_t index, const ProbeConfig& config,
                                                                ProbeMailbox* mailbox) {
  Fd stop = MakeEvent();
  Fd wake = MakeEvent();
  if (!stop || !wake) return NoEvent();
  absl::StatusOr<ProbeClient> client = ProbeClient::Make(config, stop.get());
  if (!client.ok()) return client.status();
  std::unique_ptr<ProbeThread> probe(new ProbeThread(index, config, mailbox, std::move(stop), std::move(wake)));
  // Signals belong to the loop.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  probe->thread_ = std::thread([self = probe.get(), tickets = TicketProbe(config, *std::move(client))]() mutable {
    self->Loop(std::move(tickets));
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return probe;
}

ProbeThread::~ProbeThread() {
  Signal(stop_);
  if (thread_.joinable()) thread_.join();
}

void ProbeThread::LookNow() {
  look_now_ = true;
  Signal(wake_);
}

bool ProbeThread::SleepUntil(Instant when) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(when - Clock::now()).count();
  std::array<pollfd, 2> fds = {{{stop_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}}};
  ::poll(fds.data(), fds.size(), static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000)));
  Clear(wake_);
  return fds[0].revents == 0;
}

void ProbeThread::Loop(TicketProbe probe) {
  Readiness readiness;
  Instant last_look_at_tickets = Clock::now() - config_.every;
  do {
    ProbeReport report = Turn(probe, readiness, last_look_at_tickets);
    if (report.end != SessionEnd::kStopped) mailbox_->Post(std::move(report));
  } while (SleepUntil(Clock::now() + config_.ready_every));
}

ProbeReport ProbeThread::Turn(TicketProbe& probe, Readiness& readiness, Instant& last_look_at_tickets) {
  ProbeReport report;
  report.probe = index_;
  const bool was_ready = readiness.ready();
  ReadinessLook look = probe.LookAtReadiness();
  readiness.Note(look.end);
  report.ready = readiness.ready();
  report.end = look.end;
  report.detail = std::move(look.detail);
  report.probe_micros = static_cast<uint32_t>(std::clamp<int64_t>(look.handshake.count() / 1000, 0, UINT32_MAX));
  const bool serves = look.end == SessionEnd::kHandshakeDone || look.end == SessionEnd::kWantsCertificate ||
                      look.end == SessionEnd::kVersionRefused || look.end == SessionEnd::kAlert;
  if (!serves) return report;

  const Duration since = Clock::now() - last_look_at_tickets;
  // A server that has come back has probably made new keys.
  const bool changed = (look.unknown_name && since >= kBetweenLooksAtTickets) || !was_ready;
  if (!look_now_.exchange(false) && !changed && since < config_.every) return report;
  last_look_at_tickets = Clock::now();
  report.findings = probe.LookAtTickets();
  return report;
}

}  // namespace hud
