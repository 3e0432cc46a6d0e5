// Package sealfetch loads encrypted models into memory and publishes them.
//
// A sealed model (SPEC.md) is a prefix of encrypted objects with an envelope that says who may release its key. Load
// brings one to a destination in the order in which things can be trusted: the envelope is read and held against the
// operator's policy, the destination is checked for room, a key broker releases the key, the manifest is decrypted, and
// then every part of every object streams from the network through decryption into a staging directory, which is
// renamed into place once all of it is authentic. Seal is the same road backwards. Verify and Inspect walk parts of it.
//
// Everything a caller may branch on is the Kind of an error; see KindOf.
package sealfetch
