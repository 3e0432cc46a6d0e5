"""Encrypt a file as a compact JWE, A256KW and A256GCM, with a new key.

usage: encrypt_jwe.py FILE OUT KEY_OUT
"""
import sys
from pathlib import Path

from jwcrypto import jwe, jwk


def main():
    source, out, key_out = sys.argv[1:4]
    key = jwk.JWK.generate(kty="oct", size=256)
    token = jwe.JWE(Path(source).read_bytes(), '{"alg":"A256KW","enc":"A256GCM"}')
    token.add_recipient(key)
    Path(out).write_text(token.serialize(compact=True))
    Path(key_out).write_text(key.export())


if __name__ == "__main__":
    main()
