// Package e2e holds the black-box tests of the built Caddy: they see what
// users, receivers and operators see (sockets, signals, the admin endpoint) and
// import nothing of the module's inside. Everything listens on 127.0.0.1, on
// free ports, and ends with its test.
//
// They run ../caddy, or what RELAY_CADDY names; `make e2e` builds it first.
package e2e
