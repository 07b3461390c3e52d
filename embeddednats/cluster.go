package embeddednats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/caddymodule"
	"github.com/userhero/relay/console/api"
)

// askFor bounds a question to the cluster's leader. An election takes 5 to 10 s.
const askFor = 15 * time.Second

// pingServers asks every server for its part of JetStream.
const pingServers = "$SYS.REQ.SERVER.PING.JSZ"

// answerWithin is how long all servers that run may take to answer.
const answerWithin = 2 * time.Second

// silentFor is how long a server may be silent until it counts as offline.
const silentFor = 10 * time.Second

// Servers implements caddymodule.RunningNATS.
func (r *running) Servers(ctx context.Context) (peers []api.ClusterServer, err error) {
	err = r.asSystem(ctx, func(ctx context.Context, nc *nats.Conn) error {
		if peers, err = servers(ctx, nc); err != nil {
			return err
		}
		streams, err := streams(ctx, nc, peers)
		if err != nil {
			return err
		}
		for i := range peers {
			peers[i].Current = peers[i].Current && hasAll(peers[i].Name, streams, peers)
		}
		return nil
	})
	return peers, err
}

// hasAll reports whether a server has all of each stream that it has a copy of, or will
// have one of.
func hasAll(name string, streams map[string]*server.ClusterInfo, peers []api.ClusterServer) bool {
	for _, s := range streams {
		if s.Leader == name {
			continue
		}
		have := 1 // the leader's copy
		for _, r := range s.Replicas {
			if r.Name == name && !r.Current {
				return false
			}
			if r.Name == name {
				have = copies
				break
			}
			if slices.ContainsFunc(peers, func(p api.ClusterServer) bool { return p.Name == r.Name }) {
				have++
			}
		}
		if have < copies { // a copy that a removed server had goes to a server without one
			return false
		}
	}
	return len(streams) > 0
}

// Remove implements caddymodule.RunningNATS.
func (r *running) Remove(ctx context.Context, name string) error {
	return r.asSystem(ctx, func(ctx context.Context, nc *nats.Conn) error {
		peers, err := servers(ctx, nc)
		if err != nil {
			return err
		}
		if err := removable(peers, name); err != nil {
			return err
		}
		request, err := json.Marshal(server.JSApiMetaServerRemoveRequest{Server: name})
		if err != nil {
			return err
		}
		var answer server.JSApiMetaServerRemoveResponse
		if err := ask(ctx, nc, server.JSApiRemoveServer, request, &answer); err != nil {
			return err
		}
		if answer.Error != nil {
			return fmt.Errorf("removing %s: %w", name, answer.Error)
		}
		return nil
	})
}

// removable returns nil if the cluster keeps a majority and all copies without a server.
func removable(peers []api.ClusterServer, name string) error {
	var names []string
	online := 0
	for _, p := range peers {
		names = append(names, p.Name)
		if p.Online && p.Name != name {
			online++
		}
	}
	i := slices.Index(names, name)
	switch {
	case i < 0:
		return fmt.Errorf("%w: the cluster has no server %s, but %s", caddymodule.ErrNotNow, name, strings.Join(names, ", "))
	case peers[i].Online:
		return fmt.Errorf("%w: %s runs; stop it for good, and try again after half a minute", caddymodule.ErrNotNow, name)
	case online < copies:
		return fmt.Errorf("%w: only %d other servers run, and each message has %d copies; start the server that replaces %s first",
			caddymodule.ErrNotNow, online, copies, name)
	}
	return nil
}

// servers asks the leader.
func servers(ctx context.Context, nc *nats.Conn) (peers []api.ClusterServer, err error) {
	var answer struct {
		Data server.JSInfo `json:"data"`
	}
	// Only the leader answers, and only the leader knows how far the others are.
	if err := ask(ctx, nc, pingServers, []byte(`{"leader_only":true}`), &answer); err != nil {
		return nil, err
	}
	meta := answer.Data.Meta
	if meta == nil {
		return nil, errors.New("this server has no cluster: it has no routes")
	}
	peers = append(peers, api.ClusterServer{Name: meta.Leader, Leader: true, Online: true, Current: true})
	for _, p := range meta.Replicas {
		// The leader hears from each server every second. It calls a server that was killed
		// offline only after minutes, and one that it has never heard has been active for 0.
		online := !p.Offline && p.Active < silentFor && (p.Current || p.Active > 0)
		peers = append(peers, api.ClusterServer{Name: p.Name, Online: online, Current: online && p.Current})
	}
	slices.SortFunc(peers, func(a, b api.ClusterServer) int { return strings.Compare(a.Name, b.Name) })
	return peers, nil
}

// streams returns the copies of each stream, as its leader sees them. A stream without a
// leader has none.
func streams(ctx context.Context, nc *nats.Conn, peers []api.ClusterServer) (map[string]*server.ClusterInfo, error) {
	answers, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return nil, err
	}
	defer func() { _ = answers.Unsubscribe() }()
	if err := nc.PublishRequest(pingServers, answers.Subject, []byte(`{"streams":true}`)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	all := make(map[string]*server.ClusterInfo)
	for _, p := range peers {
		if !p.Online {
			continue
		}
		m, err := answers.NextMsgWithContext(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			break // a server that is offline since
		} else if err != nil {
			return nil, err
		}
		var answer struct {
			Server server.ServerInfo `json:"server"`
			Data   server.JSInfo     `json:"data"`
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			return nil, err
		}
		for _, account := range answer.Data.AccountDetails {
			for _, s := range account.Streams {
				name := account.Name + " " + s.Name
				if s.Cluster != nil && s.Cluster.Leader == answer.Server.Name {
					all[name] = s.Cluster
				} else if all[name] == nil {
					all[name] = &server.ClusterInfo{} // only its leader knows how far the copies are
				}
			}
		}
	}
	return all, nil
}

// ask sends a request until the leader answers.
func ask(ctx context.Context, nc *nats.Conn, subject string, request []byte, answer any) error {
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		m, err := nc.RequestWithContext(try, subject, request)
		cancel()
		if err == nil {
			return json.Unmarshal(m.Data, answer)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("no server leads the cluster: %w; a majority of the servers must run and reach each other", err)
		}
	}
}

// asSystem calls f with a connection of the system account, which may change the cluster.
func (r *running) asSystem(ctx context.Context, f func(context.Context, *nats.Conn) error) error {
	if r.server.JetStreamIsClustered() {
		ctx, cancel := context.WithTimeout(ctx, askFor)
		defer cancel()
		nc, err := nats.Connect(nats.DefaultURL, r.connectWith(r.logins.system)...)
		if err != nil {
			return err
		}
		defer nc.Close()
		return f(ctx, nc)
	}
	return fmt.Errorf("%w: this server is alone; it has no routes", caddymodule.ErrNotNow)
}
