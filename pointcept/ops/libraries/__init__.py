"""Operations carried out by other packages, each imported only where :mod:`pointcept.ops.backend` chooses it."""
