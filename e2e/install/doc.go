// Package install holds the black-box tests of what operators install: the
// service, the packages and the image of a release, and the manifests. Tests of
// the service run as root on a machine of their own: systemd boots in a container
// on a copy of this machine's files that is thrown away, without a network, and
// runs the test there.
//
// They take the caddy that RELAY_CADDY names, or ../../caddy, and the packages of
// the folder that RELAY_DIST names, or ../../dist; `make e2e` builds both.
package install
