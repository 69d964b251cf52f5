from __future__ import annotations

from zoo.numerics.crc32c import crc32c, masked_crc32c


def test_the_vectors_of_rfc_3720() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_the_mask_is_leveldb_s() -> None:
    assert masked_crc32c(b"") == 0xA282EAD8
    assert masked_crc32c(b"foo") != crc32c(b"foo")
