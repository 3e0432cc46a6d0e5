// Command bench measures sealfetch against plain downloads of the same bytes: against its own engine without
// decryption, against the work measured apart (receiving, AES-GCM, writing to tmpfs), and against other programs.
//
// It starts a light S3 server of its own as a child, makes the data in /dev/shm, and runs all variants of a scenario
// in each round (A B C A B C), so that a noisy minute hits all of them. Wall and CPU time are wait4(2)'s, memory is
// the peak of RssAnon, the server's CPU time is told apart, and a run that others disturbed is dropped and repeated.
// Figures are only ever compared within one scenario of one run. It is never a test: timings fail no build but through
// the gate, which is a ratio of CPU times of the same binary.
package main
