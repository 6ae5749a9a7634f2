//go:build tools

// Package controlplane pins the programs of the control plane that the
// Kubernetes cases run against. `harness::controlplane::Assets` builds them.
package controlplane

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
)
