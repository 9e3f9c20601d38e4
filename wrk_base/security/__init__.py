"""Who is who in a mesh, and who may do what: keys, certificates, invitations, membership, roles.

An identity is a key that the encrypted link proved, never a name. A membership is a certificate for
that key, signed by a machine's issuer, which the mesh's root signed. What nobody vouches for is refused.
"""
