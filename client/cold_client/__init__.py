"""Client of a CoLD server: contrastive LoRA decoding over gRPC or HTTP.

with Client("grpc://127.0.0.1:8001") as client:
    result = client.generate(Request(text_input="Hello", alpha=0.1))
"""

from ._client import AsyncClient, Client
from ._exceptions import (
    AccessDenied,
    AdapterNotFound,
    ColdClientError,
    InvalidRequest,
    ProtocolError,
    RequestCancelled,
    RequestTimeout,
    ServerError,
    ServerUnavailable,
)
from ._grpc import AsyncGrpcTransport, GrpcTransport
from ._http import AsyncHttpTransport, HttpTransport
from ._stream import AsyncStream, Stream
from ._transport import Access, AsyncTransport, Transport
from ._types import Alternative, Health, Model, Piece, Request, Result, TokenContrast

__version__ = "0.1.0"

__all__ = [
    "Access",
    "AccessDenied",
    "AdapterNotFound",
    "Alternative",
    "AsyncClient",
    "AsyncGrpcTransport",
    "AsyncHttpTransport",
    "AsyncStream",
    "AsyncTransport",
    "Client",
    "ColdClientError",
    "GrpcTransport",
    "Health",
    "HttpTransport",
    "InvalidRequest",
    "Model",
    "Piece",
    "ProtocolError",
    "Request",
    "RequestCancelled",
    "RequestTimeout",
    "Result",
    "ServerError",
    "ServerUnavailable",
    "Stream",
    "TokenContrast",
    "Transport",
    "__version__",
]
