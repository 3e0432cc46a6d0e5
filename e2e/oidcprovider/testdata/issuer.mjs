// An issuer on 127.0.0.1 over https. Settings come from the environment; it prints one line once it listens.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createRequire } from 'node:module';

const { ISSUER, PORT, TLS_CERT, TLS_KEY, SIGNING_KEY, CLIENT_SECRET, CLIENT_JWK, TOKEN_SECONDS, MODULES } = process.env;
const { Provider } = await import(createRequire(MODULES + '/').resolve('oidc-provider'));

const client = { redirect_uris: [], response_types: [], grant_types: ['client_credentials'], id_token_signed_response_alg: 'ES256' };
const provider = new Provider(ISSUER, {
  jwks: { keys: [JSON.parse(SIGNING_KEY)] },
  clients: [
    { ...client, client_id: 'with-secret', client_secret: CLIENT_SECRET, token_endpoint_auth_method: 'client_secret_basic' },
    {
      ...client, client_id: 'with-key', token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: 'ES256',
      jwks: { keys: [JSON.parse(CLIENT_JWK)] },
    },
  ],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource) => ({
        scope: 'models', audience: resource, accessTokenTTL: Number(TOKEN_SECONDS), accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'ES256' } },
      }),
    },
  },
});
const options = { cert: readFileSync(TLS_CERT), key: readFileSync(TLS_KEY) };
createServer(options, provider.callback()).listen(Number(PORT), '127.0.0.1', () => console.log('listening'));
