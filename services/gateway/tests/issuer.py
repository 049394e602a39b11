"""An issuer of tokens: real keys, a JWKS, and every way of forging one."""

import base64
import json
import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

ISSUER = "https://issuer.example/pool"
AUDIENCE = "quarry"


@cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """One key per name."""
    return rsa.generate_private_key(65_537, bits)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    """One key per name."""
    return ec.generate_private_key(ec.SECP256R1())


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    """The public half as the issuer publishes it."""
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", **more}


def jwks(*keys: dict[str, Any]) -> str:
    """A key set; without arguments the issuer's own."""
    return json.dumps({"keys": list(keys) or [jwk(rsa_key("issuer"), "rsa-1"), jwk(ec_key("issuer"), "ec-1")]})


def claims(sub: str = "anna", scope: str = "quarry:read", groups: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """What a good token says; None takes a claim away."""
    now = int(time.time())
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": sub, "iat": now, "nbf": now, "exp": now + 7_200, "scope": scope, "groups": list(groups), **more}
    return {name: value for name, value in said.items() if value is not None}


def token(said: dict[str, Any] | None = None, kid: str | None = "rsa-1", headers: dict[str, Any] | None = None, key: Any = None, algorithm: str = "") -> str:
    """A token signed by the issuer, or by `key`."""
    key = key or (ec_key("issuer") if kid == "ec-1" else rsa_key("issuer"))
    algorithm = algorithm or ("RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256")
    return jwt.encode(said or claims(), key, algorithm, headers={**({"kid": kid} if kid is not None else {}), **(headers or {})})


def bearer(*arguments: Any, **more: Any) -> dict[str, str]:
    """The header of a good token for these claims."""
    return {"Authorization": f"Bearer {token(claims(*arguments, **more))}"}


def b64(data: Any) -> str:
    """A token's part."""
    raw = data if isinstance(data, bytes) else (data if isinstance(data, str) else json.dumps(data)).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: str, payload: str) -> str:
    """Signed by the issuer whatever it holds."""
    signature = jwt.PyJWS().get_algorithm_by_name("RS256").sign(f"{header}.{payload}".encode(), rsa_key("issuer"))
    return f"{header}.{payload}.{b64(signature)}"
