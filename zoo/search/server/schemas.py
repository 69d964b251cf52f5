"""What the server answers; the names of these classes are in openapi.json."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str


class Embedding(BaseModel):
    """The embedding of one image."""

    model: str = Field(description="NAME.tag of the model.")
    weights_sha256: str | None
    normalize: bool = Field(description="Whether the embedding has length 1.")
    dim: int
    embedding: list[float]


class Neighbour(BaseModel):
    """An image of the collection and its cosine similarity to the query."""

    row: int
    path: str
    cosine: float = Field(description="Of centred embeddings, if the collection says `centred`.")
    kept: dict[str, str] = Field({}, description="Its values of the columns that --keep carried along.")


class Image(BaseModel):
    """An image of the collection."""

    row: int
    path: str
    status: str = Field(description="ok, or why it has no embedding.")
    error: str | None = Field(None, description="More of why.")
    kept: dict[str, str] = Field({}, description="Its values of the columns that --keep carried along.")


class About(BaseModel):
    """The collection."""

    name: str
    version: str
    model: str
    images: int
    indexed: int
    index: str
    centred: bool = Field(description="Whether the collection's mean is subtracted before each cosine.")
    pictures: bool = Field(description="Whether thumbnails can be shown.")
    maps: list[str] = Field(description="Kinds of `/api/map`.")


class Column(BaseModel):
    """A column that ``--keep`` carried into the result."""

    name: str
    kind: Literal["categories", "numbers", "text"]
    values: list[str] = Field(description="The categories, the most frequent first; a value's place is its code.")
    counts: list[int] = Field(description="The number of images of each category.")
    least: float | None = Field(description="Smallest finite number of a scale.")
    most: float | None = Field(description="Largest finite number of a scale.")
