// tests/helm/cluster/lws/go.mod - LeaderWorkerSet's controller, with the libraries of its own release.
module diptych.example/lws

go 1.26.0

require sigs.k8s.io/lws v0.7.0
