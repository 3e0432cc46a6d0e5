package model

// PreAuthEncoding is what a DSSE signature is over.
var PreAuthEncoding = preAuthEncoding
