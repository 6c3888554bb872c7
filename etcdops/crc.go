package etcdops

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// joinCRC is the CRC-32 (Castagnoli) of two strings one after the other, from those
// of each and the length of the second in bytes: the first one's bits, moved by as
// many zero bits as the second has, which is a multiplication modulo the polynomial,
// plus those of the second. It is what zlib's crc32_combine does.
func joinCRC(first, second uint32, n uint64) uint32 {
	moved := first
	for power := 0; n != 0; n, power = n>>1, power+1 {
		if n&1 != 0 {
			moved = timesCRC(moved, zeroBytes[power])
		}
	}
	return moved ^ second
}

// zeroBytes[i] is x^(8·2^i) modulo the polynomial: what 2^i zero bytes do.
var zeroBytes = func() (powers [64]uint32) {
	powers[0] = 1 << (31 - 8) // bit 31 is x^0
	for i := 1; i < len(powers); i++ {
		powers[i] = timesCRC(powers[i-1], powers[i-1])
	}
	return powers
}()

// timesCRC multiplies two polynomials modulo Castagnoli's. As in the table, the
// highest bit is x^0.
func timesCRC(a, b uint32) (product uint32) {
	for ; a != 0; a <<= 1 {
		if a>>31 != 0 {
			product ^= b
		}
		b = b>>1 ^ -(b&1)&crc32.Castagnoli
	}
	return product
}
