"""Several processes that train one model together: how they find each other, agree, and share work and weights."""
