"""Who may ask: API keys, their scopes, rates and quotas; certificates. No transport is named."""
