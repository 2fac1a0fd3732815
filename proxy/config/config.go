// SPDX-License-Identifier: Apache-2.0

package config

// Config is all that one proxy is told.
type Config struct {
	Admin     string // path of the admin unix socket; "" for none
	Listeners map[string]*Listener
	Clusters  map[string]*Cluster
	Routes    map[string]*RouteConfig // those that listeners name (RDS)

	Here         Place  // where this proxy runs (node.locality); for zone-aware routing
	LocalCluster string // the cluster that this proxy is a host of (cluster_manager.local_cluster_name); "" for none
}

// Place is a locality's name.
type Place struct{ Region, Zone, SubZone string }
