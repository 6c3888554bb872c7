package hosts

import "testing"

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, err := Load("fleets/k8s-235"); err != nil {
			b.Fatal(err)
		}
	}
}
