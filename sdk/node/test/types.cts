// The package is there for CommonJS, too.

import penstock = require("penstock");

export const client: penstock.Client = new penstock.Client("localhost:50051");
