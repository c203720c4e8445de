// A server in TypeScript that knows nothing of perdure. See README.md for how it remembers.
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { z } from "zod";

const server = new McpServer({ name: "typescript", version: "1.0.0" });

server.registerTool(
  "chat",
  { description: "Talk with somebody who counts the lines that they are given.", inputSchema: { prompt: z.string() } },
  async ({ prompt }) => {
    const lines = prompt.split("\n");
    return { content: [{ type: "text", text: `I was given ${lines.length} lines, the last of them: ${lines.at(-1)}` }] };
  },
);

await server.connect(new StdioServerTransport());
