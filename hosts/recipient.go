package hosts

import (
	"fmt"
	"strings"
)

// parseRecipient reads an age recipient: 32 bytes in Bech32 (BIP 173) with the
// prefix "age". The checksum tells a typing error here, and not when the first
// snapshot is to be encrypted, or worse: read.
func parseRecipient(s string) (string, error) {
	const prefix, size, checksum = "age1", 52, 6 // 32 bytes in characters of 5 bits
	if strings.HasPrefix(strings.ToUpper(s), "AGE-SECRET-KEY-") {
		return "", fmt.Errorf("is a secret key: write the public one, which begins with %q, and replace this one, which others may have read by now", prefix)
	}
	data, ok := strings.CutPrefix(s, prefix)
	if !ok || len(data) != size+checksum || bech32Checksum("age", data) != 1 {
		return "", fmt.Errorf("%s is not an age recipient (%q and %d characters, as \"age-keygen\" prints it), or a character of it is wrong", quote(s), prefix, size+checksum)
	}
	return s, nil
}

// bech32Checksum is BIP 173's polymod over the prefix and the data; 1 where they
// belong together, 0 where a character is none of Bech32's.
func bech32Checksum(prefix, data string) uint32 {
	const alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	sum := uint32(1)
	add := func(v byte) {
		top := sum >> 25
		sum = (sum&0x1ffffff)<<5 ^ uint32(v)
		for i, generator := range []uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				sum ^= generator
			}
		}
	}
	for i := range len(prefix) {
		add(prefix[i] >> 5)
	}
	add(0)
	for i := range len(prefix) {
		add(prefix[i] & 31)
	}
	for i := range len(data) {
		v := strings.IndexByte(alphabet, data[i])
		if v < 0 {
			return 0
		}
		add(byte(v))
	}
	return sum
}
