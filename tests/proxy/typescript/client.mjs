// A client of the npm SDK before the proxy: node's pipes to a child are pairs of sockets.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

const [, , command, ...args] = process.argv;
const transport = new StdioClientTransport({ command, args, env: process.env, stderr: "inherit" });
const client = new Client({ name: "test", version: "1" }, { capabilities: {} });
await client.connect(transport);
const { tools } = await client.listTools();
await new Promise((resolve) => setTimeout(resolve, 300)); // would a proxy that takes us for gone have gone by now?
const result = await client.callTool({ name: "echo", arguments: { message: "x".repeat(2_000_000) } });
console.log(JSON.stringify({ tools: tools.map((tool) => tool.name), length: result.content[0].text.length, meta: result._meta }));
await client.close();
