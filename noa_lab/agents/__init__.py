"""Agents over an InferenceEngine: what they look at, how they ask, and what they make of the answers.

The first is DigestAgent, which gives an account of a repository: facts by code, purpose and roles by the model.
"""

from noa_lab.agents._agent import DigestAgent
from noa_lab.agents._digest import (
    Component,
    Dependency,
    EntryPoint,
    LanguageFact,
    Omitted,
    RepositoryDigest,
    RepositoryFacts,
    TokenUse,
)
from noa_lab.agents._examples import write_examples
from noa_lab.agents._inputs import digest_inputs
from noa_lab.agents._parse import parse_digest
from noa_lab.agents._prompt import DigestPrompt

__all__ = [
    "Component",
    "Dependency",
    "DigestAgent",
    "DigestPrompt",
    "EntryPoint",
    "LanguageFact",
    "Omitted",
    "RepositoryDigest",
    "RepositoryFacts",
    "TokenUse",
    "digest_inputs",
    "parse_digest",
    "write_examples",
]
