//go:build tools

// Package controlplane pins the store behind the API server.
package controlplane

import _ "go.etcd.io/etcd/server/v3"
