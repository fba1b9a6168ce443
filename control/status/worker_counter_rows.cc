#include "control/status/worker_counter_rows.h"

namespace hud {

namespace {

using W = WorkerCounters;
constexpr auto kCounter = WorkerCounterRow::Kind::kCounter;
constexpr auto kGauge = WorkerCounterRow::Kind::kGauge;
constexpr WorkerCounterRow kRows[] = {
    {"accepted", "hudsucker_connections_accepted_total", kCounter, "Client connections that the worker accepted.",
     &W::accepted},
    {"active", "hudsucker_connections_active", kGauge, "Client connections of the worker, in any state.", &W::active},
    {"in_hello", "hudsucker_worker_in_hello", kGauge, "Connections whose first bytes are not complete.", &W::in_hello},
    {"dialing", "hudsucker_worker_dialing", kGauge, "Connections that wait for the connect to a node.", &W::dialing},
    {"relaying", "hudsucker_worker_relaying", kGauge, "Connections that are joined to a node.", &W::relaying},
    {"bytes_in", nullptr, kCounter, "Bytes from clients to nodes, counted as they move.", &W::bytes_in},
    {"bytes_out", nullptr, kCounter, "Bytes from nodes to clients, counted as they move.", &W::bytes_out},
    {"accept_backoffs", "hudsucker_worker_accept_backoffs_total", kCounter,
     "Times that accepting paused for want of descriptors or memory.", &W::accept_backoffs},
    {"over_limit", "hudsucker_worker_over_limit_total", kCounter,
     "Connections closed at once for want of a place.", &W::over_limit},
    {"connection_limit", "hudsucker_worker_connection_limit", kGauge, "max_connections, of all workers together.",
     &W::connection_limit},
    {"limit_reached", "hudsucker_worker_limit_reached_total", kCounter,
     "Times that all places were found in use.", &W::limit_reached},
    {"evicted_for_places", "hudsucker_worker_evicted_for_places_total", kCounter,
     "Connections that made room when all places were in use.", &W::evicted_for_places},
    {"evicted_for_hellos", "hudsucker_worker_evicted_for_hellos_total", kCounter,
     "Connections that made room when the memory for hellos was in use.", &W::evicted_for_hellos},
    {"hello_budget_refused", "hudsucker_worker_hello_budget_refused_total", kCounter,
     "Clients closed for want of memory for their hello.", &W::hello_budget_refused},
    {"connect_failures", "hudsucker_worker_connect_failures_total", kCounter, "Connects to nodes that failed.",
     &W::connect_failures},
    {"connect_retries", "hudsucker_worker_connect_retries_total", kCounter,
     "Connects that were tried again at another node.", &W::connect_retries},
    {"hello_complete", nullptr, kCounter, "Connections that began with a whole ClientHello.", &W::hello_complete},
    {"hello_not_tls", nullptr, kCounter, "Connections that began with something else than TLS.", &W::hello_not_tls},
    {"hello_malformed", nullptr, kCounter, "Connections whose ClientHello was malformed.", &W::hello_malformed},
    {"hello_too_large", nullptr, kCounter, "Connections whose ClientHello was larger than hello.max_bytes.",
     &W::hello_too_large},
    {"hello_bytes_held", "hudsucker_worker_hello_held_bytes", kGauge,
     "Memory of the first bytes that are kept for connections without a node.", &W::hello_bytes_held},
    {"private_bytes", "hudsucker_worker_private_bytes", kGauge, "Memory of what slow receivers have not taken yet.",
     &W::private_bytes},
    {"buffers_free", "hudsucker_worker_buffers_free", kGauge, "Free buffers of those that all connections share.",
     &W::buffers_free},
    {"buffers_exhausted", "hudsucker_worker_buffers_exhausted_total", kCounter,
     "Times that a read found no free buffer and had to wait.", &W::buffers_exhausted},
    {"pipes_held", "hudsucker_worker_pipes_held", kGauge, "Pipes in use by transfers in bulk.", &W::pipes_held},
    {"pipe_bytes", "hudsucker_worker_pipe_capacity_bytes", kGauge, "Capacity of the pipes in use.", &W::pipe_bytes},
    {"splice_entered", "hudsucker_worker_splice_entered_total", kCounter,
     "Times that one direction of a connection went over to splice.", &W::splice_entered},
    {"splice_left", "hudsucker_worker_splice_left_total", kCounter,
     "Times that one direction of a connection went back to copying.", &W::splice_left},
    {"zerocopy_sends", "hudsucker_worker_zerocopy_sends_total", kCounter, "Sends that asked the kernel for zero copy.",
     &W::zerocopy_sends},
    {"zerocopy_copied", "hudsucker_worker_zerocopy_copied_total", kCounter,
     "Sends that asked for zero copy and were copied by the kernel all the same.", &W::zerocopy_copied},
    {"cq_overflows", "hudsucker_worker_cq_overflows_total", kCounter, "Overflows of the ring's completion queue.",
     &W::cq_overflows},
    {"loops", "hudsucker_worker_loops_total", kCounter, "Turns of the worker's event loop.", &W::loops},
    {"records_dropped", "hudsucker_worker_access_log_dropped_total", kCounter,
     "Lines of the access log that were lost because its queue was full.", &W::records_dropped},
};

}  // namespace

std::span<const WorkerCounterRow> WorkerCounterRows() { return kRows; }

}  // namespace hud
