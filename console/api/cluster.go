package api

// Cluster is what GET /cluster answers, on Caddy's admin endpoint alone: the cluster of NATS
// servers that are built into Caddy.
type Cluster struct {
	Servers []ClusterServer `json:"servers"`
}

// ClusterServer is a server of the cluster, as the leader sees it.
type ClusterServer struct {
	Name   string `json:"name"`
	Leader bool   `json:"leader"` // of the cluster; its streams have leaders of their own
	// Online: the leader has heard from it in the last seconds.
	Online bool `json:"online"`
	// Current: it has all that the cluster has decided and all of its streams.
	Current bool `json:"current"`
}
