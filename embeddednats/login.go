package embeddednats

import (
	"crypto/rand"
	"crypto/subtle"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// logins are the tokens of the two clients of the server, both in this process. A server
// that starts again has others.
type logins struct {
	server *server.Server
	relay  string // of the queue
	system string // of the system account, which may change the cluster
}

func newLogins() *logins { return &logins{relay: rand.Text(), system: rand.Text()} }

// Check implements server.Authentication.
func (l *logins) Check(c server.ClientAuthentication) bool {
	token := []byte(c.GetOpts().Token)
	switch {
	case subtle.ConstantTimeCompare(token, []byte(l.relay)) == 1:
		c.RegisterUser(&server.User{Username: "relay", Account: l.server.GlobalAccount()})
	case subtle.ConstantTimeCompare(token, []byte(l.system)) == 1:
		c.RegisterUser(&server.User{Username: "system", Account: l.server.SystemAccount()})
	default:
		return false
	}
	return true
}

// connectWith is how a client in this process connects.
func (r *running) connectWith(token string) []nats.Option {
	return []nats.Option{nats.InProcessServer(r.server), nats.Token(token)}
}

var _ server.Authentication = (*logins)(nil)
