"""A session of qwen-agent with one tool, run by the clients' own interpreter: `weather_agent.py URL`. Prints JSON lines."""

import json
import sys

from qwen_agent.agents import Assistant
from qwen_agent.tools.base import BaseTool, register_tool

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Name of the city"}},
    "required": ["city"],
}


@register_tool("get_weather")
class Weather(BaseTool):
    """Says the weather, and that it was asked."""

    description = "The weather of today in a city."
    parameters = PARAMETERS

    def call(self, params: str | dict, **_) -> str:
        """The same for every city."""
        print(json.dumps({"called": self._verify_json_format_args(params)}))
        return "Sunny, 21 degrees."


def main(url: str) -> None:
    """One question, answered with the tool or without; calls in the server's own form, or in the agent's own prompts."""
    for use_raw_api in (False, True):
        generate = {"max_tokens": 120, "seed": 3, "temperature": 0.1, "use_raw_api": use_raw_api, "max_retries": 0}
        llm = {"model": "coder", "model_type": "oai", "model_server": url, "api_key": "none", "generate_cfg": generate}
        agent = Assistant(llm=llm, function_list=["get_weather"], system_message="Use the tools.")
        last = []
        for messages in agent.run([{"role": "user", "content": "Call get_weather for Paris and tell me what it says."}]):
            last = messages
        print(json.dumps({"raw": use_raw_api, "messages": last}))


if __name__ == "__main__":
    main(sys.argv[1])
