// Package etcdops takes, checks, keeps and restores etcd snapshots, and asks
// etcd for its health. Nothing here is reconciled: each function is an
// operation that somebody or a schedule asks for.
//
// Words: a snapshot is the file <cluster>-<host>-<time>.db as etcd streams it
// (the bbolt database followed by 32 bytes of SHA-256 over it); its manifest is
// the JSON file of the same name beside it. A report is what [Verify] found in
// a file. The manifest is signed by the host that took the snapshot; [Trust] says
// which hosts' signatures are believed. A restore has a plan, made by
// [PlanRestore] which only reads, and a journal on disk while it runs, so that a
// power cut at any point is completed or undone by [ResumeOrUndo].
//
// Invariants:
//
//   - A snapshot file with its final name is whole, durable, has passed every
//     check of Verify and has its manifest beside it.
//   - Nothing that Verify refuses is ever restored, and it is refused before
//     anything is touched.
//   - The data that a restore replaces is renamed aside and kept. Until the
//     restored member has proved its revision it goes back by itself on any
//     failure.
//   - There is no moment at which etcd, started by whomever, would find an empty
//     data folder where there was data: the folders are exchanged by one rename.
package etcdops
