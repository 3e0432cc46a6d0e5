"""Download a prefix as KServe's storage initializer does, and decrypt it as its confidential extra does.

usage: download.py s3://bucket/prefix DIR [KEY_FILE]
"""
import logging
import sys
from pathlib import Path

from kserve_storage import Storage

logging.disable(logging.CRITICAL)


class FileResolver:
    """Stands in for the guest's key service: the key is in a file."""

    def __init__(self, path):
        self.path = path

    def resolve_key(self, resource_id):
        return Path(self.path).read_bytes()


def main():
    uri, directory = sys.argv[1:3]
    Storage.download_files([uri], [directory])
    if len(sys.argv) > 3:
        from kserve_storage.confidential.jwe_decryptor import JWEDecryptor

        JWEDecryptor(FileResolver(sys.argv[3]), resource_id="kbs:///a/b/c").decrypt_directory(directory)


if __name__ == "__main__":
    main()
