"""What knows no noun of the domain: errors, identifiers, paths, environment variables, JSON.

Import the modules, not this package: `from tinsmith.core.errors import UserError`,
`from tinsmith.core import jsonio`.
"""

from tinsmith.core import environment, errors, ids, jsonio, paths

__all__ = ["environment", "errors", "ids", "jsonio", "paths"]
