package e2e

import "testing"

// TestHosts runs the tests of hosts without Kubernetes side by side: they mostly
// wait, for a poll or for a deadline. Not beside clusters, whose load would have
// them miss the seconds that they hold nodeagent to. Those that take long are first.
func TestHosts(t *testing.T) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"Drift", testDrift},
		{"Lockout", testLockout},
		{"LockoutMesh", testLockoutMesh},
		{"MeshInUserspace", testMeshInUserspace},
		{"Mesh", testMesh},
		{"Names", testNames},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t)
		})
	}
}
