// What control keeps up to date and every worker reads. All of it outlives the workers.
#pragma once

#include "core/affinity/affinity_map.h"
#include "core/base/snapshot_channel.h"
#include "core/routing/node_table.h"
#include "core/routing/route_table.h"

namespace hud {

struct RoutingState {
  SnapshotChannel<RouteTable>* routes;
  const AffinityMap* affinity;
  NodeTable* nodes;
};

}  // namespace hud
